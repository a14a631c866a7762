"""How training goes: the kernel's closed forms for the squared loss, at any time.

Loss (1/2N) Σ‖f(x_i) − y_i‖², parameters moving by θ̇ = −η ∇loss. At infinite width the outputs obey
ḟ = −(η/N) Θ(·, X)(f(X) − Y), so that along an eigenvector of H = Θ(X, X) with eigenvalue λ the
distance to the targets falls as e^{−ηλt/N}: time is counted as in gradient flow, and with η it
counts steps of plain gradient descent where those are small. (neural-tangents averages the loss
over outputs as well: its time is K times this one.)
"""

from ntkdist.learning.dynamics.descent import GradientDescent
from ntkdist.learning.dynamics.ensemble import Ensemble, NngpPosterior
from ntkdist.learning.dynamics.flow import GradientFlow, log_times, squared_loss
from ntkdist.learning.dynamics.stopping import Stopping, choose_stopping_time

__all__ = [
    "Ensemble",
    "GradientDescent",
    "GradientFlow",
    "NngpPosterior",
    "Stopping",
    "choose_stopping_time",
    "log_times",
    "squared_loss",
]
