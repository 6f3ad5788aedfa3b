"""The dashboard's paths. Team names may contain slashes, so a name is always the last part of its path."""

from django.contrib.auth.views import LoginView, LogoutView
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from dashboard import views

app_name = "dashboard"

urlpatterns = [
    path("", views.home, name="home"),
    path("teams/<path:name>/", views.team_page, name="team"),
    path("live/<path:name>/", views.team_live, name="live"),
    path("requests/", views.request_list, name="requests"),
    path("requests/<str:record_id>/", views.request_detail, name="request"),
    path("playground/", views.playground, name="playground"),
    path(
        "login/",
        LoginView.as_view(template_name="dashboard/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("favicon.ico", RedirectView.as_view(url=static("dashboard/icon.svg"))),
    path("logout/", LogoutView.as_view(), name="logout"),
]
