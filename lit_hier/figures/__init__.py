"""Drawing: from arrays to matplotlib figures."""

from lit_hier.figures.collapse import Collapse, collapse_figure
from lit_hier.figures.curves import Panel, compare_panels, curve_figure, level_figure
from lit_hier.figures.grids import grid_figure
from lit_hier.figures.histograms import histogram_figure
from lit_hier.figures.maps import MapCurve, map_figure
from lit_hier.figures.overlays import OverlaidCurve, overlay_figure
from lit_hier.figures.phase_diagram import phase_figure
from lit_hier.figures.style import figure_style

__all__ = [
    "Collapse",
    "MapCurve",
    "OverlaidCurve",
    "Panel",
    "collapse_figure",
    "compare_panels",
    "curve_figure",
    "figure_style",
    "grid_figure",
    "histogram_figure",
    "level_figure",
    "map_figure",
    "overlay_figure",
    "phase_figure",
]
