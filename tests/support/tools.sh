#!/bin/sh
# What some tests need from the system: a broker, a browser, a reverse proxy and GStreamer; and for
# tests/support/surroundings.py locales and ip.
# Installed where that is allowed (root, apt-get); elsewhere those tests skip and say what to install. Never fails, and leaves
# no service running or enabled.
PATH="$PATH:/usr/sbin:/sbin"
missing=""
for tool in mosquitto chromium nginx; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
# GStreamer as a publisher over WebRTC (tests/support/gstreamer_whip.py)
command -v gst-launch-1.0 >/dev/null 2>&1 || missing="$missing gstreamer1.0-tools gstreamer1.0-nice gstreamer1.0-plugins-good
    gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly python3-gi gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0"
[ -e /usr/share/i18n/locales/tr_TR ] || missing="$missing locales"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed:$missing; the tests that need them are skipped (as root: apt-get install$missing)"
    exit 0
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # packages that start a service ask it first; 101 forbids
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 0' INT TERM
fi
echo "installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1
for tool in $missing; do
    apt-get install -qq -y --no-install-recommends "$tool" >/dev/null 2>&1 ||
        echo "could not install $tool; the tests that need it are skipped"
done
case "$missing" in
*mosquitto*) command -v systemctl >/dev/null 2>&1 && systemctl disable --now mosquitto >/dev/null 2>&1 ;;
esac
case "$missing" in
*nginx*) command -v systemctl >/dev/null 2>&1 && systemctl disable --now nginx >/dev/null 2>&1 ;;
esac
exit 0
