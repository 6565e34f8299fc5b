"""Why two records match, or do not: the prior, one signed weight a comparison, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import polars as pl

from streamproc.entities.interning import intern_frame, interned
from streamproc.entities.linkage_model import LinkageModel, posterior
from streamproc.entities.program import MISSING, program_of
from streamproc.entities.scoring import levels, pair_weights, patterns, scorer
from streamproc.entities.stored_columns import stored_columns


@dataclass(frozen=True, slots=True)
class Bar:
    """What one comparison says: both values, the level on which they stand, and its weights in bits.

    rarity  what the frequency of the value adds, 0 where it adds nothing
    """

    column: str
    left: str
    right: str
    level: str
    weight: float
    rarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """prior + the sum of all bars = weight, in bits; `posterior` is the probability of a match."""

    left: str
    right: str
    prior: float
    bars: tuple[Bar, ...]
    weight: float
    model: str

    @property
    def posterior(self) -> float:
        """The probability that both records are of one entity."""
        return posterior(self.weight)

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "left": self.left, "right": self.right, "model": self.model, "prior": self.prior,
            "fields": [
                {"column": bar.column, "left": bar.left, "right": bar.right, "level": bar.level, "weight": bar.weight,
                 "term_frequency": bar.rarity}
                for bar in self.bars
            ],
            "weight": self.weight, "posterior": self.posterior,
        }  # fmt: skip

    def to_text(self) -> str:
        """For people: a line a comparison, with a bar as long as its weight."""
        wide = max([len(bar.column) for bar in self.bars] + [len("posterior")])
        lines = [f"{self.left}  and  {self.right}", f"{'prior':<{wide}}  {self.prior:+8.2f}"]
        for bar in self.bars:
            total = bar.weight + bar.rarity
            drawn = ("+" if total > 0 else "-") * min(round(abs(total)), 40)
            rare = f" (of it {bar.rarity:+.2f} for how often the value occurs)" if bar.rarity else ""
            lines.append(
                f"{bar.column:<{wide}}  {total:+8.2f}  {drawn:<20} {bar.level}{rare}: {bar.left} | {bar.right}"
            )
        lines.append(f"{'weight':<{wide}}  {self.weight:+8.2f}  bits")
        lines.append(f"{'posterior':<{wide}}  {self.posterior:8.4f}")
        return "\n".join(lines)

    def to_svg(self) -> str:
        """A waterfall: each bar begins where the one before it ended."""
        steps = [("prior", self.prior, "")]
        for bar in self.bars:
            steps.append((bar.column, bar.weight, f"{bar.left} | {bar.right}: {bar.level}"))
            if bar.rarity:
                steps.append((f"{bar.column}, frequency", bar.rarity, bar.left))
        ends = np.cumsum([0.0] + [step[1] for step in steps])
        low, high = min(0.0, float(ends.min())), max(0.0, float(ends.max()))
        scale = 420 / max(high - low, 1e-9)
        height = 24 * (len(steps) + 2) + 16

        def place(bits: float) -> float:
            return 230 + (bits - low) * scale

        rows = [f'<line x1="{place(0):.1f}" y1="8" x2="{place(0):.1f}" y2="{height - 8}" stroke="#999"/>']
        for number, (name, bits, told) in enumerate(steps):
            y = 12 + 24 * number
            begin, end = sorted((place(ends[number]), place(ends[number + 1])))
            colour = "#2a7f4f" if bits > 0 else "#b23b3b"
            rows.append(
                f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" height="16" fill="{colour}">'
                f"<title>{escape(told)}</title></rect>"
                f'<text x="222" y="{y + 13}" text-anchor="end">{escape(name)} {bits:+.2f}</text>'
            )
        y = 12 + 24 * len(steps)
        rows.append(f'<text x="222" y="{y + 13}" text-anchor="end">weight {self.weight:+.2f}</text>')
        rows.append(f'<text x="{place(low):.1f}" y="{y + 13}">posterior {self.posterior:.4f}</text>')
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(rows)}</svg>'
        )


def explain_match(model: LinkageModel, records: pl.DataFrame, *, names: tuple[str, str]) -> Explanation:
    """Why the two rows of a frame match or do not, by the kernels that decide it."""
    stored = stored_columns(model.comparisons, model.blocks)
    program = program_of(model, stored)
    kept = interned()
    values = intern_frame(kept, records, stored, model, program)
    use = scorer(program, kept)
    one, two = np.array([0]), np.array([1])
    on = levels(patterns(use, values, one, two), len(model.comparisons))[0]
    weights = model.weights()
    bars = []
    for at, comparison in enumerate(model.comparisons):
        missing = on[at] == MISSING
        value = int(values[0, program.columns[at]])
        rarity = float(kept.rarity[value]) if on[at] == 0 and comparison.frequencies and not missing else 0.0
        given = records[comparison.column]
        if comparison.form == "set":
            given = given.list.drop_nulls().list.join(", ")
        left, right = given.cast(pl.String).to_list()
        bars.append(
            Bar(
                comparison.column, _shown(left), _shown(right),
                "missing" if missing else comparison.names[int(on[at])],
                0.0 if missing else weights[at][int(on[at])], rarity,
            )
        )  # fmt: skip
    total = float(pair_weights(use, values, one, two)[0])
    return Explanation(names[0], names[1], model.prior_weight, tuple(bars), total, model.version)


def _shown(value: str | None) -> str:
    return "(missing)" if value is None or not value.strip() else value.strip()
