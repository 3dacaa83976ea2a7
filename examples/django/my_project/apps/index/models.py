"""What the tasks write down."""

from django.db import models


class Letter(models.Model):
    """A letter that was sent."""

    email = models.EmailField()
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "index"

    def __str__(self):
        return self.email
