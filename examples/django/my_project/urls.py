"""Where the pages are."""

from django.urls import path

from my_project.apps.index import views

urlpatterns = [
    path("", views.index),
    path("welcome", views.welcome),
    path("letters", views.letters),
]
