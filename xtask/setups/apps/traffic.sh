# A run root of Traffic Server: `traffic.sh FOLDER PORT`.
traffic_layout init --path "$1/ats" --copy-style=soft > /dev/null
cat > "$1/ats/etc/trafficserver/records.config" <<CONFIG
CONFIG proxy.config.http.server_ports STRING $2:ip-in=127.0.0.1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.diags.output.error STRING E
CONFIG
echo "map / http://127.0.0.1:9000/" > "$1/ats/etc/trafficserver/remap.config"
