"""The page's cards: each shows one part of the state, and draws itself anew only when that part is another."""
