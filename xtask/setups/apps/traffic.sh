# A run root of Traffic Server: `traffic.sh FOLDER PORT`.
root=$1/ats
mkdir -p "$root/etc" "$root/run" "$root/log" "$root/cache"
cp -r /etc/trafficserver/. "$root/etc"
cat > "$root/runroot.yaml" <<ROOT
prefix: /usr
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: $root/etc
datadir: $root/cache
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: $root/run
runtimedir: $root/run
logdir: $root/log
cachedir: $root/cache
ROOT
cat > "$root/etc/records.config" <<CONFIG
CONFIG proxy.config.http.server_ports STRING $2:ip-in=127.0.0.1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG
echo "map / http://127.0.0.1:9000/" > "$root/etc/remap.config"
