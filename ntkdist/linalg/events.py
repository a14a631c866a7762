"""The events of linear algebra."""

from collections.abc import Callable
from typing import Any

from ntkdist.events.types import (
    BandDone as BandDone,
)
from ntkdist.events.types import (
    InverseBlockDone as InverseBlockDone,
)
from ntkdist.events.types import (
    IterationDone as IterationDone,
)
from ntkdist.events.types import (
    LinalgProgress as LinalgProgress,
)
from ntkdist.events.types import (
    PanelDone as PanelDone,
)
from ntkdist.events.types import (
    PanelStarted as PanelStarted,
)
from ntkdist.events.types import (
    RidgeTried as RidgeTried,
)
from ntkdist.events.types import (
    SketchDone as SketchDone,
)

Listener = Callable[[Any], object]
