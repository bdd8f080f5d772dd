# The server behind a proxy: nginx at port 9000, which keeps all its responses. `origin.sh FOLDER`.
mkdir -p "$1/origin" "$1/front"
chmod 777 "$1/origin" "$1/front"
cat > "$1/origin.conf" <<CONFIG
pid $1/origin.pid; error_log $1/origin.log; events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path $1/origin; fastcgi_temp_path $1/origin; proxy_temp_path $1/origin; uwsgi_temp_path $1/origin;
  scgi_temp_path $1/origin;
  server { listen 127.0.0.1:9000; root $1; error_page 405 =200 /large; client_max_body_size 0; lingering_close always; }
}
CONFIG
nginx -c "$1/origin.conf"
