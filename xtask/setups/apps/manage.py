"""A Django project in one file."""
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import re_path

settings.configure(DEBUG=True, SECRET_KEY="none", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
urlpatterns = [re_path(".*", lambda request: HttpResponse(b"r" * 300000))]
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
