"""Random configs and data files: a config or an error of one line, never anything else.

python -m pytest 02_src/tests/test_fuzz.py                         # a few seconds
python 03_scripts/fuzz.py --minutes 10                             # the long form
"""

import fuzz_readers
import pytest
from hypothesis import HealthCheck, given, settings

QUICK = settings(
    max_examples=80, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("name", fuzz_readers.TARGETS)
def test_reader_gives_a_result_or_one_line(name, tmp_path):
    strategy, check = fuzz_readers.TARGETS[name]
    QUICK(given(strategy)(lambda case: check(tmp_path, case)))()
