"""Measurements of the library beside raw uWSGI; run by hand, they prove nothing on a slow machine."""
