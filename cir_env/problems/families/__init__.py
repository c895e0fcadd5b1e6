"""Families of generated problems: each draws one problem at random, with an exact integer or rational answer.

`one_block` has problems for one short Python program, `multi_block` problems whose answer needs a look in between.
"""

from collections.abc import Mapping

from cir_env.problems.families.draft import Draft, Family, make_key
from cir_env.problems.families.multi_block import MULTI_BLOCK
from cir_env.problems.families.one_block import ARITHMETIC, MIXED, PRODUCTS

__all__ = ["GENERATORS", "Draft", "Family", "make_key"]

GENERATORS: Mapping[str, tuple[Family, ...]] = {
    "products": PRODUCTS,
    "arithmetic": ARITHMETIC,
    "mixed": MIXED,
    "multi_block": tuple(MULTI_BLOCK.values()),
    **{f"multi_block:{name}": (family,) for name, family in MULTI_BLOCK.items()},
}
"""Generators by name: "products" is the default of a training run, "arithmetic" that of the environment."""
