"""UCUM unit codes: what a number in one unit is in another, as one factor and one offset, found by pint at plan time.

The arithmetic of finding them is exact (fractions), so both are the doubles next to the truth.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from streamproc.errors import DefinitionError, TypeMismatch

_DIFFERENT: Final = ("[cft_i]", "[cyd_i]", "[rd_br]", "[Cal]", "[Btu]", "[in_i'H2O]", "[in_i'Hg]", "[LPF]", "g%")
"""Units that pint takes for something else than UCUM does, by more than a ten-thousandth; so are ' and '' (of angles).
All others agree: a test compares them with UCUM's own table."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """to = from * factor + offset"""

    factor: float
    offset: float


@functools.lru_cache(maxsize=1)
def _registry() -> Any:
    try:
        from ucumvert import PintUcumRegistry
    except ImportError:
        raise DefinitionError(
            "units are converted by pint and ucumvert, which are not installed",
            hint="pip install 'streamproc[harmonise]'",
        ) from None
    return PintUcumRegistry(non_int_type=Fraction)


@functools.lru_cache(maxsize=4096)
def _unit(code: str) -> tuple[Any, Fraction]:
    """A unit, and the number that stands in its code (4 in '4.s/m')."""
    bare = re.sub(r"\[[^\]]*\]", "", code)
    if "'" in bare or any(unit in code for unit in _DIFFERENT):
        raise DefinitionError(
            f"'{code}' holds a unit that pint converts otherwise than UCUM says",
            hint="use another unit: 'deg', 'kcal_th', '[Btu_th]', 'm3'",
        )
    try:
        found = _registry().from_ucum(code)
    except Exception as error:  # the grammar's, the registry's and pint's own errors have no common class
        if isinstance(error, DefinitionError):
            raise
        raise DefinitionError(
            f"'{code}' is not a UCUM unit", hint="UCUM codes look like 'kg', 'm/s', '[lb_av]', 'Cel', '10*3/uL'"
        ) from None
    return found.units, Fraction(found.magnitude)


@functools.lru_cache(maxsize=4096)
def conversion(source: str, target: str) -> Conversion:
    """How a number in `source` becomes one in `target`, both UCUM codes.

    Raises DefinitionError for codes that UCUM does not have and for scales that are not straight lines (decibels, pH);
    TypeMismatch where the dimensions differ.

    >>> conversion("[lb_av]", "kg")
    Conversion(factor=0.45359237, offset=0.0)
    """
    (here, times), (there, per) = _unit(source), _unit(target)
    if here.dimensionality != there.dimensionality:
        raise TypeMismatch(
            f"'{source}' cannot become '{target}': one is {here.dimensionality}, the other {there.dimensionality}",
            hint="choose units of one dimension",
        )
    quantity = _registry().Quantity
    try:
        at = [Fraction(quantity(Fraction(x), here).to(there).magnitude) for x in (0, times, 2 * times)]
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        at = [Fraction(0), Fraction(1), Fraction(3)]
    if at[2] - at[1] != at[1] - at[0]:
        raise DefinitionError(
            f"'{source}' to '{target}' is not a straight line", hint="convert it in a step of your own: sp.with_columns"
        )
    return Conversion(float((at[1] - at[0]) / per), float(at[0] / per))
