"""An arm for trb_lab: the student's rollouts inside the teacher's nucleus."""
