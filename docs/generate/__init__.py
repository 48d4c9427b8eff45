"""Makes pages of the site from the code at every build; :mod:`hooks` is what MkDocs calls."""
