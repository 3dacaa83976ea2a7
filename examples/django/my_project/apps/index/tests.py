"""Tests without uWSGI: there a task runs in its caller, so that its effect is there at once."""

from django.core import mail
from django.test import TestCase


class WelcomeTest(TestCase):
    """The page that sends a letter."""

    def test_given_an_address_when_welcomed_then_the_letter_is_sent(self):
        self.client.post("/welcome", {"email": "ann@example.com"})
        assert [letter.to for letter in mail.outbox] == [["ann@example.com"]]
