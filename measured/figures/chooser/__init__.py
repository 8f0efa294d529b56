"""Figures to choose from: one image or one model of a sweep at a time, by mouse, finger or keyboard. No torch.

`shell` is the page around any drawings (`choose`); `plane` and `water` are two sets of drawings. Start in `shell`.
"""

from measured.figures.chooser.plane import Gaussians, posteriors
from measured.figures.chooser.shell import Chooser, Stop, choose
from measured.figures.chooser.water import Frame, digits, water_levels

__all__ = ["Chooser", "Frame", "Gaussians", "Stop", "choose", "digits", "posteriors", "water_levels"]
