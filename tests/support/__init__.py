"""What tests share: servers, a faulty proxy, a ledger, waiting."""
