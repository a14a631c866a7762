"""What a run will take before it is begun: tiles, bytes, memory, time and money."""

from ntkdist.planning.plan import WORKERS, Limits, PlanEstimate, describe_plan, make_plan

__all__ = ["WORKERS", "Limits", "PlanEstimate", "describe_plan", "make_plan"]
