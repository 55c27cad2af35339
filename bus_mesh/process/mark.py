"""How a daemon that left its session is known as one child's: by a variable in the environment it was started with."""

from typing import Final

MARK: Final = "BUSMESH_KEPT"
"""The variable; a keeper itself never has it, because it is nobody's daemon."""
