"""What operators do over the API, from anywhere: `doorward approvals`, `doorward secrets`."""
