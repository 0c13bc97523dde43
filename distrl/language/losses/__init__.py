"""Token, sequence and group losses (plug points `token_loss`, `row_loss`, `group_loss`)."""
