"""What stage `report` puts together: results as read, figures, the slider's images, studies."""
