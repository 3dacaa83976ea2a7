"""The library at home in other frameworks."""
