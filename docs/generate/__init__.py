"""The site's pages that are made from the code at every build, and what MkDocs calls to make them."""
