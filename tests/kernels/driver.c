/* A stand-in for NVIDIA's driver and management library, for machines without a GPU.

   GPUs are those that STAND_IN_GPUS lists, with semicolons between them:
   "NAME,MAJOR.MINOR,COMPUTE_MODE,FREE_BYTES". Memory of a GPU is that of the host, kernels do
   nothing. Every call is noted in the file STAND_IN_LOG, behind the number of its process.
   STAND_IN_ERROR="CALL=CODE,..." lets calls fail, "*=CODE" all that need a context. The process
   whose launch finds the file STAND_IN_LOSS removes it, and loses its GPU. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char name[64]; int major, minor, mode; unsigned long long free; } Gpu;

static int read_gpus(Gpu *gpus) {
    const char *text = getenv("STAND_IN_GPUS");
    int count = 0;
    while (text && count < 8) {
        Gpu *gpu = &gpus[count];
        if (sscanf(text, "%63[^,],%d.%d,%d,%llu", gpu->name, &gpu->major, &gpu->minor, &gpu->mode,
                   &gpu->free) == 5)
            count++;
        text = strchr(text, ';');
        if (text) text++;
    }
    return count;
}

/* Note a call; return the error that it ends with, 0 for none. */
static int called(const char *name, int in_context) {
    const char *path = getenv("STAND_IN_LOG"), *errors = getenv("STAND_IN_ERROR");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%d %s\n", (int)getpid(), name);
        fclose(file);
    }
    static int lost;
    const char *loss = getenv("STAND_IN_LOSS");
    if (loss && !strncmp(name, "cuLaunch", 8) && !unlink(loss)) lost = 700;
    if (lost && in_context) return lost;
    for (const char *at = errors; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char which[64];
        int code;
        if (sscanf(at, "%63[^=]=%d", which, &code) == 2 &&
            (!strcmp(which, name) || (in_context && !strcmp(which, "*"))))
            return code;
    }
    return 0;
}

#define CALL(in_context) int error = called(__func__, in_context); if (error) return error
#define NOTHING(name) int name() { CALL(1); return 0; }
#define MAKES(name) int name(void **made) { CALL(1); *made = (void *)++handles; return 0; }

static long handles;
static int context; /* every GPU has this one */
static _Thread_local void *current;

int cuInit(unsigned flags) {
    Gpu gpus[8];
    CALL(0);
    return read_gpus(gpus) ? 0 : 100;
}
int cuDriverGetVersion(int *version) {
    const char *text = getenv("STAND_IN_CUDA");
    *version = text ? atoi(text) : 13000;
    return 0;
}
int cuDeviceGetCount(int *count) {
    Gpu gpus[8];
    CALL(0);
    *count = read_gpus(gpus);
    return 0;
}
int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}
int cuDeviceGetName(char *name, int length, int device) {
    Gpu gpus[8];
    CALL(0);
    read_gpus(gpus);
    snprintf(name, length, "%s", gpus[device].name);
    return 0;
}
int cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, device + 1, 16);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = 80ull << 30;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    Gpu gpus[8];
    read_gpus(gpus);
    switch (attribute) {
    case 16: *value = 132; break;                   /* multiprocessors */
    case 20: *value = gpus[device].mode; break;     /* compute mode */
    case 39: *value = 2048; break;                  /* threads of a multiprocessor */
    case 75: *value = gpus[device].major; break;
    case 81: *value = 228 * 1024; break;            /* shared memory of a multiprocessor */
    case 76: *value = gpus[device].minor; break;
    default: *value = 0;
    }
    return 0;
}

/* What opens or changes a context. */
int cuDevicePrimaryCtxRetain(void **made, int device) {
    CALL(1);
    *made = &context;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuDevicePrimaryCtxReset_v2(int device) { return 0; }
int cuCtxGetCurrent(void **now) {
    *now = current;
    return 0;
}
int cuCtxSetCurrent(void *wanted) {
    CALL(0);
    current = wanted;
    return 0;
}
int cuCtxPushCurrent_v2(void *wanted) {
    CALL(0);
    current = wanted;
    return 0;
}
int cuCtxPopCurrent_v2(void **popped) {
    *popped = current;
    current = NULL;
    return 0;
}
int cuCtxGetDevice(int *device) {
    *device = 0;
    return current ? 0 : 201;
}

/* What needs one. */
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    CALL(1);
    *free = *total = 1ull << 30;
    return 0;
}
int cuMemAlloc_v2(void **made, size_t bytes) {
    CALL(1);
    *made = calloc(1, bytes);
    return *made ? 0 : 2;
}
int cuMemFree_v2(void *memory) {
    CALL(1);
    free(memory);
    return 0;
}
int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    CALL(1);
    memcpy(to, from, bytes);
    return 0;
}
int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    CALL(1);
    memcpy(to, from, bytes);
    return 0;
}
int cuPointerGetAttribute(void *value, int attribute, void *pointer) {
    const char *text = getenv("STAND_IN_POINTERS_ON");
    CALL(1);
    *(int *)value = text ? atoi(text) : 0;
    return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *kernel, int threads, size_t bytes) {
    CALL(1);
    *blocks = 6;
    return 0;
}
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) {
    CALL(1);
    *value = 32;
    return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) {
    CALL(1);
    *value = 32;
    return 0;
}
NOTHING(cuCtxSynchronize)
NOTHING(cuStreamSynchronize)
MAKES(cuLibraryLoadData)
NOTHING(cuLibraryUnload)
MAKES(cuLibraryGetKernel)
MAKES(cuLibraryGetModule)
MAKES(cuKernelGetFunction)
NOTHING(cuKernelGetParamInfo)
MAKES(cuFuncGetModule)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)

int cuGetErrorName(int code, const char **name) {
    *name = code == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == 46  ? "CUDA_ERROR_DEVICE_UNAVAILABLE"
            : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                          : "CUDA_ERROR_UNKNOWN";
    return 0;
}
int cuGetErrorString(int code, const char **text) {
    *text = "an error of the stand-in";
    return 0;
}
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags,
                        void *status) {
    static void *self;
    char newer[100];
    Dl_info here;
    if (!self && dladdr((void *)cuGetProcAddress_v2, &here)) self = dlopen(here.dli_fname, RTLD_LAZY);
    snprintf(newer, sizeof newer, "%s_v2", name);
    *address = dlsym(self, newer);
    if (!*address) *address = dlsym(self, name);
    return *address ? 0 : 500;
}

/* Of the management library: a GPU's handle is its number and 1. */
int nvmlInit_v2(void) { return called(__func__, 0); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    const char *kind = getenv("STAND_IN_KIND"); /* MIG for instances */
    CALL(0);
    if (strncmp(uuid, kind ? kind : "GPU", 3)) return 6;
    *device = (void *)(long)(uuid[5] - '0');
    return 0;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, void *info) {
    Gpu gpus[8];
    CALL(0);
    read_gpus(gpus);
    unsigned long long *fields = (unsigned long long *)info; /* version, total, reserved, free */
    fields[3] = gpus[(long)device - 1].free;
    return 0;
}
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }
