"""The page: a local server, an engine for one model, and the static files of one page."""
