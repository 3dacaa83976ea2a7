"""Measurements of the library beside raw uWSGI. Run by hand: they assert no speed."""
