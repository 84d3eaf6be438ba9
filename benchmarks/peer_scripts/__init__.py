"""Programs that ``bench peers`` runs; they import nothing of this project's."""
