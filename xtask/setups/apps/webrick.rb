# `webrick.rb PORT`
require 'webrick'
server = WEBrick::HTTPServer.new(BindAddress: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
servlet = Class.new(WEBrick::HTTPServlet::AbstractServlet) do
  def do_GET(_request, response)
    response.body = 'r' * 300_000
  end
  alias_method :do_POST, :do_GET
end
server.mount('/', servlet)
trap('TERM') { server.shutdown }
server.start
