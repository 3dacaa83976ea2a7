"""A short campaign, always the same; ``make faults SECONDS=…`` runs longer ones."""

from __future__ import annotations

import pytest

from .campaign import Campaign


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_given_a_seeded_campaign_when_it_ends_then_nothing_is_lost_and_all_is_explained():
    campaign = Campaign(seed=1)
    campaign.run(seconds=15)
    assert campaign.failures == []
    assert campaign.counts["rounds"] > 0
