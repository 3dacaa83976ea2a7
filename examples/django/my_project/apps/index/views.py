"""Pages that start tasks and don't wait for them."""

from django.http import HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from my_project.apps.index.models import Letter
from my_project.apps.index.tasks import send_email_async


def index(request):
    """Say that the site is up."""
    return HttpResponse("curl -d email=you@example.com http://127.0.0.1:8080/welcome\n")


@csrf_exempt  # so that curl will do
def welcome(request):
    """Send a welcome letter in the background."""
    handle = send_email_async("Welcome!", "Thank you!", request.POST["email"])
    return JsonResponse({"id": handle.id, "executor": handle.executor.name})


def letters(request):
    """Tell to whom letters were sent."""
    return JsonResponse({"sent": [letter.email for letter in Letter.objects.order_by("id")]})
