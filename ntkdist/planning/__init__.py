"""What a run will take before it is begun: tiles, bytes, memory, time and money."""
