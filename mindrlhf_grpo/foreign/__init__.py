"""Other programs' configurations, arguments and files, taken as they are: what each means here stands in tables."""
