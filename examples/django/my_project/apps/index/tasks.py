"""What happens in the background."""

from django.core.mail import send_mail

from my_project.apps.index.models import Letter
from uwsgi_tasks import TaskExecutor, cron, task


@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=5)
def send_email_async(subject, body, email_to):
    """Send a letter, up to three times if the mail server is away, and write it down."""
    send_mail(subject, body, "noreply@domain.com", [email_to])
    Letter.objects.create(email=email_to)


@cron("@daily")
def forget_old_letters():
    """Keep the last thousand."""
    kept = Letter.objects.order_by("-sent_at").values_list("pk", flat=True)[:1000]
    Letter.objects.exclude(pk__in=list(kept)).delete()
