"""What is known of a mixture before it trains: plan, differences, previews."""
