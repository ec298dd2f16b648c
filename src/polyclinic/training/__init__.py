"""A recipe → a run: the recipe, the loop, checkpoints, the run's folder. Imports `tasks` and above."""

from .checkpoint import InterruptedRunError, RunError
from .guard import offending
from .loop import pretrain
from .reading import RecipeError
from .recipe import Recipe, schema
from .run import Run

__all__ = ["InterruptedRunError", "Recipe", "RecipeError", "Run", "RunError", "offending", "pretrain", "schema"]
