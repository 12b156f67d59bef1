"""The fault campaign in short: a round for each of a few kinds; the whole is `tests.campaign`."""

from pathlib import Path

import pytest

from tests import campaign
from tests.campaign_faults import Fault
from tests.campaign_runs import Ended, lost


@pytest.mark.slow
def test_a_short_campaign_finds_nothing():
    rounds = campaign.campaign([1, 2], seed=3)
    bad = [found for found in rounds if found.outcome in campaign.BAD]
    assert not bad, "\n".join(map(str, bad))
    assert [found.kind for found in rounds] == ["SIGKILL", "flip"]


@pytest.mark.parametrize(("code", "errors", "problem"), [
    (1, ["error: /w/pairs/a.array_record is damaged"], ""),
    (1, ["error: checkpoint /w/pairs is damaged: why; do this"], ""),
    (1, ["error: /w/pairs/b.json is damaged."], ""),
    (1, ["error: /w/teacher/b.json is damaged"], "the damaged file is not named"),
    (1, ["error: /w is damaged"], "the damaged file is not named"),
    (1, ["Exception ignored", "error: /w/pairs/a.array_record is damaged"], "not one line"),
    (1, ["Traceback (most recent call last):"], "not one line"),
    (-9, [], "not one line"),
])
def test_a_refusal_is_one_line_that_names_the_file(code, errors, problem):
    fault = Fault("flip", Path("/w"), lambda root: "", Path("/w/pairs/a.array_record"))
    assert campaign.improper(Ended(code, errors), fault) == problem
    assert campaign.improper(Ended(code, errors), fault._replace(damaged=None))


def test_what_is_lost():
    before = {"a": "1", "b": "2", "t/checkpoints/4/x": "3", "t/checkpoints/8/x": "4"}
    assert lost(before, before) == []
    assert lost(before, {"a": "1", "c": "2"} | before) == []
    after = {"a.damaged-1": "1", "b": "9", "t/checkpoints/8/x": "4", "t/checkpoints/12/x": "5"}
    assert lost(before, after) == ["b"]  # "a" was moved, and step 4 is older than the two kept


def test_the_report_counts_what_is_bad():
    rounds = [campaign.Round(1, "flip", "", campaign.SAME, ""),
              campaign.Round(2, "flip", "it", campaign.SILENT, "why")]
    printed = campaign.report(campaign.summary(rounds, 7, 60.0))
    assert "| flip | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in printed
    assert "seed: 7\nrounds: 2\nminutes: 1.0" in printed
    assert "wrong results: 0\nsilent acceptances: 1\ncrashes: 0" in printed
    assert printed.endswith("\n--seed=7 --only=2 flip: it -> silent acceptance: why")
