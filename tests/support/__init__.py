"""The parts that tests share: tiny models and runs, fake servers, literal cases."""
