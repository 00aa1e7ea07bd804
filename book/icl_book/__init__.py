"""The book's own code: how it is built, what its chapters share, and in `studies` what one of them needs."""
