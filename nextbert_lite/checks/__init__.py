"""The exercises' checks: one module per lesson. In lesson 02: `from nextbert_lite.checks import lesson_02 as check`."""
