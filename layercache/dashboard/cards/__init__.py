"""The page's cards: each shows one part of the state, and redraws only when that part has changed."""
