"""What every driver must do, as small files; README.md says what each of them pins."""
