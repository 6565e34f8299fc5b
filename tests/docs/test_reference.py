"""The pages of reference say what the code says of itself."""

from __future__ import annotations

import pytest

from tests.docs.reference import DOCS, PAGES, RENEW


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_what_the_code_says(page: str) -> None:
    there = (DOCS / page).read_text(encoding="utf-8").splitlines()
    made = PAGES[page]().splitlines()
    at = next((n for n, (a, b) in enumerate(zip(there, made, strict=False)) if a != b), min(len(there), len(made)))
    assert there == made, f"docs/{page} line {at + 1} is not what the code says; renew it with '{RENEW}'"
