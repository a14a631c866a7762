"""Variants of the fused GPU kernel, compiled side by side and timed in turns on one GPU.

    python jobs/benchmarks/gpu_variants.py                                     # three networks
    python jobs/benchmarks/gpu_variants.py --networks cnn-3 --variants "threads 64 + registers 168"
    python jobs/benchmarks/gpu_variants.py --list                              # no GPU needed
    NUMBA_ENABLE_CUDASIM=1 python jobs/benchmarks/gpu_variants.py --simulate   # tests this script

A variant is values of the kernels' constants (``_variants_list.py``): threads of a block, the most
registers of a thread, where a pool's sums are kept, bytes of a batch of pairs, and how finely row
displacements are cut. Each variant of each network has a process of its own
(``_variants_child.py``), which compiles it, computes 2 × 2 entries twice, and times one block of
entries when it is its turn: NTK and NNGP in one pass, the entries left on the GPU. After the last
variant of a network the present one is timed again, so that a drift shows. No time is reported of
entries that are not within 2e-5 of the float64 reference.

One that fails, takes too long or cannot be is a row with its reason and stops no other. --output is
written after every row. Run by ``card.py``, it takes its turns there. Exit code 0: all that can be
was measured; 1: not all; 2: bad options, or no GPU; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _card_runner import Outcome, Runner
from _card_steps import HERE, VARIED, Step, environment
from _gpu_check import KINDS, LARGEST_ERROR
from _record import RESULTS, write
from _variants_child import shape_of
from _variants_list import AGAIN, CHANGES, PRESENT, matters, settings_of, variants_of
from gpu import why_not

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels._chain import chain_of

TOY_NETWORKS = ("cnn-3",)
LIMIT = 180.0  # seconds of one variant, beside its timing; waiting does not count
TABLE = ("network", "variant", "µs/entry", "of present", "registers", "local", "shared",
         "blocks", "")  # fmt: skip


@dataclass
class Findings:
    """What is known so far, as rows.

    Attributes:
        planned: Variants of each network, in order.
        results: What each variant's process wrote, by network and variant.
        references: Of each network the right entries, or why there are none.
    """

    planned: dict[str, list[str]]
    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    references: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each variant that has ended."""
        return [
            self.row(network, variant)
            for network, variants in self.planned.items()
            for variant in variants
            if (network, variant) in self.results
        ]

    def row(self, network: str, variant: str) -> dict[str, Any]:
        """Return a variant's row; its time only if its entries are right."""
        found = self.results[network, variant]
        row = {"network": network, "variant": variant, "settings": dict(settings_of(variant))}
        if "entries" not in found:
            return row | found
        row |= {key: found[key] for key in ("rows", "columns", "kernels")}
        row |= self._checked(network, found["entries"])
        if "error" in row or found["us"] is None:
            return row
        row |= {"us": found["us"], "us_per_entry": statistics.median(found["us"])}
        if variant == PRESENT:
            return row | {"ratio": 1.0}
        present = self.row(network, PRESENT) if (network, PRESENT) in self.results else {}
        if "us_per_entry" in present:
            row["ratio"] = row["us_per_entry"] / present["us_per_entry"]
        return row

    def _checked(self, network: str, entries: dict[str, Any]) -> dict[str, Any]:
        right = self.references.get(network, {"error": "not checked: no reference yet"})
        if "error" in right:
            return right
        found, expected = (np.array([of[kind] for kind in KINDS]) for of in (entries, right))
        error = float(np.max(np.abs(found / expected - 1)))  # NaN where any is
        if error <= LARGEST_ERROR:
            return {"largest_error": error}
        return {"error": f"an entry differs from the reference by {error:.1e}"}


def plan(networks: Sequence[str], variants: str | None, simulate: bool) -> dict[str, list[str]]:
    """Return which variants of each network to time, the present first and last.

    Raises:
        InputError: If there is no such network or variant, or the cuda backend lacks it.
    """
    from ntkdist.kernels._cuda_plan import layout_of

    found = {}
    shape = shape_of(simulate)
    for network in networks:
        arch = Architecture.parse(network)
        if arch.is_spatial:
            arch.check_image(*shape[:2])
        chain = chain_of(arch)
        if isinstance(chain, str):
            raise InputError(f"backend 'cuda', {network}: {chain}")
        layout = layout_of(chain, shape if chain.spatial else (1, 1, math.prod(shape)), "float32")
        asked = variants.split(",") if variants else variants_of(layout)
        names = [PRESENT]
        for name in map(str.strip, asked):
            try:
                settings = settings_of(name)
            except KeyError as error:
                known = ", ".join([PRESENT, *CHANGES])
                raise InputError(f"no variant {error.args[0]!r}; there are {known}") from None
            if matters(settings, layout) and name not in names:
                names.append(name)
        found[network] = [*names, AGAIN]
    return found


def steps(
    planned: dict[str, list[str]], work: Path, args: argparse.Namespace
) -> list[tuple[Step, str, str | None]]:
    """Return the processes in order, each with its network, and its variant or None."""
    found: list[tuple[Step, str, str | None]] = []
    script = (sys.executable, str(HERE / "_variants_child.py"))
    words = ("--seconds", str(args.seconds), "--repeats", str(args.repeats))
    words += ("--simulate",) if args.simulate else ()
    for number, (network, variants) in enumerate(planned.items()):
        for place, variant in enumerate([None, *variants]):
            name = f"{number}-{place}"
            what = ("--reference",) if variant is None else (variant,)
            output = ("--output", str(work / f"{name}.json"))
            step = Step(
                name,
                (*script, network, *what, *words, *output),
                seconds=0.0,
                limit=LIMIT + 5 * args.seconds,
                last=variant == AGAIN,
            )
            found.append((step, network, variant))
    return found


def measure(planned: dict[str, list[str]], args: argparse.Namespace, path: Path | None) -> Findings:
    """Run everything, writing and printing each row."""
    findings = Findings(planned)
    command = " ".join(["python jobs/benchmarks/gpu_variants.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        todo = steps(planned, work, args)
        about = {step.name: of for step, *of in todo}

        def tell(outcome: Outcome) -> None:
            network, variant = about[outcome.name]
            result = work / f"{outcome.name}.json"
            found = {"error": f"{outcome.state}: {outcome.words}"}
            if outcome.state == "done":
                found = json.loads(result.read_text())
            if variant is None:
                findings.references[network] = found
            else:
                findings.results[network, variant] = found
                print(line(findings.row(network, variant)), flush=True)
            if path:
                write(path, findings.rows(), command, {"simulated": args.simulate})

        Runner(
            [step for step, *_ in todo],
            work,
            seconds=math.inf,
            cores=args.processes,
            environment=environment(args.simulate),
            on_outcome=tell,
        ).run()
    return findings


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row as words; what a network's several kernels take stands side by side."""
    us, ratio = row.get("us_per_entry"), row.get("ratio")
    kernels = row.get("kernels", ())
    taken = (
        "/".join(str(kernel[what]) for kernel in kernels)
        for what in ("registers", "local", "shared", "blocks")
    )
    return (
        row["network"],
        row["variant"],
        "" if us is None else f"{us:.4g}",
        "" if ratio is None else f"{ratio:.3f}",
        *taken,
        row.get("skipped") or row.get("error", ""),
    )


def line(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    network, variant, us, ratio, registers, *_, why = cells(row)
    words = [f"{us} µs an entry"] if us else []
    words += [f"{ratio} of present"] if ratio else []
    words += [f"{registers} registers"] if registers else []
    return f"{network}, {variant}: {', '.join([*words, why] if why else words) or 'checked'}"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a GitHub table."""
    lines = [TABLE, ("---", "---", *["---:"] * 6, "---"), *map(cells, rows)]
    return "\n".join("| " + " | ".join(words) + " |" for words in lines)


def best(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many rows there are, and each network's fastest."""
    timed = [row for row in rows if "ratio" in row]
    words = [f"{len([row for row in rows if 'largest_error' in row])} of {len(rows)}"]
    for network in dict.fromkeys(row["network"] for row in timed):
        mine = [row for row in timed if row["network"] == network]
        row = min(mine, key=lambda row: row["us_per_entry"])
        words.append(f"{network} {row['us_per_entry']:.4g} µs ({row['variant']})")
    return f"measured: {', '.join(words)}"


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", help=f"presets, by commas ({','.join(VARIED)})")
    parser.add_argument("--variants", help="names, by commas; ' + ' joins changes (--list)")
    parser.add_argument("--list", action="store_true", help="print the variants and leave")
    parser.add_argument("--processes", type=int, default=12, help="that compile at a time (12)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing each (2)")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each (3)")
    parser.add_argument("--output", type=Path, help="JSON to write (results/gpu_variants.json)")
    parser.add_argument("--simulate", action="store_true", help="check at toy size, time nothing")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure; the exit code.

    Raises:
        InputError: For bad options, or where there is no GPU.
    """
    for name, least in (("processes", 1), ("seconds", 0.01), ("repeats", 1)):
        if not getattr(args, name) >= least:
            raise InputError(f"--{name} {getattr(args, name):g} must be at least {least:g}")
    names = args.networks.split(",") if args.networks else TOY_NETWORKS if args.simulate else VARIED
    planned = plan(names, args.variants, args.simulate)
    if args.list:
        for network, variants in planned.items():
            print(f"{network}: {', '.join(variants)}")
        return 0
    if reason := why_not(args.simulate):
        raise InputError(f"nothing is measured: {reason}")
    path = args.output or (None if args.simulate else RESULTS / "gpu_variants.json")
    rows = measure(planned, args, path).rows()
    print(f"\n{markdown(rows)}\n\n{best(rows)}")
    return 1 if any("error" in row for row in rows) else 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = run(options().parse_args())
    except InputError as error:
        print(f"gpu_variants.py: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("gpu_variants.py: interrupted; what was measured is kept", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
