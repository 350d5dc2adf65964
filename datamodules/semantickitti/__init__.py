"""SemanticKITTI: camera (teacher) paired with lidar (student) in the image plane."""
