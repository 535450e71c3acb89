"""The verifier: holds the target model, checks drafts of many sessions in packed forwards, decodes where none come."""
