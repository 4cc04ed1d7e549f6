//! Do HAProxy and nginx work in front, with the lines that the documentation gives?

use postern_tests::gateway::Process;
use postern_tests::peer::Tool;
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;

const PAGE: &str = include_str!("../../../docs/door.md");

/// The first block of this language in the section about proxies.
fn block(language: &str) -> String {
    let (_, section) = PAGE
        .split_once("\n## Behind a proxy\n")
        .expect("the section");
    let fence = format!("```{language}\n");
    let (_, rest) = section
        .split_once(&fence)
        .expect("a block of this language");
    let (block, _) = rest.split_once("```").expect("its end");
    block.to_owned()
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

/// Starts a proxy with the documented configuration, on a free port and towards a gateway as documented, and connects
/// through it from an address of one's own.
async fn through(program: &str, arguments: &[&str], config: &str) {
    let postern = block("toml");
    assert!(postern.contains("trusted_proxies"), "{postern}");
    let postern = postern.replace("127.0.0.1:8884", "127.0.0.1:0");
    let gateway = gateway(&postern).await;
    let behind = gateway.listener("behind").port();
    let port = free_port().await;
    let config = config
        .replace("bind :8883", &format!("bind 127.0.0.1:{port}"))
        .replace("listen 8883", &format!("listen 127.0.0.1:{port}"))
        .replace("127.0.0.1:8884", &format!("127.0.0.1:{behind}"));
    let dir = TempDir::with_prefix("postern-proxy-").expect("a directory");
    let file = dir.path().join("proxy.conf");
    std::fs::write(&file, config).expect("written");
    let tool = Tool::new(program).args(arguments).arg(&file);
    let proxy = Process::start(tool.current_dir(dir.path()));

    let (address, to) = (own_address(), SocketAddr::from(([127, 0, 0, 1], port)));
    let stream = until_some(&format!("{program} to listen"), async || {
        assert_eq!(proxy.status(), None, "{}", proxy.log().text());
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(address, 0)).expect("bound");
        socket.connect(to).await.ok()
    })
    .await;
    let stream = tls_over(&gateway, stream).await.expect("a handshake");
    let (code, _) = login_on(stream, &good(&gateway, "through"))
        .await
        .expect("CONNACK");
    assert_eq!(code, 0);
    // The client's own address, not the proxy's.
    logged(&gateway, &format!("peer={address}:")).await;
    proxy.signal(libc::SIGTERM);
    within("the proxy to leave", proxy.wait()).await;
}

// N2
#[tokio::test]
async fn haproxy_with_the_documented_lines_passes_the_address_on() {
    through("/usr/sbin/haproxy", &["-db", "-f"], &block("haproxy")).await;
}

// N2
#[tokio::test]
async fn nginx_with_the_documented_lines_passes_the_address_on() {
    let head = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\npid nginx.pid;\nerror_log stderr;\n\
                events {}\n";
    let config = format!("{head}{}", block("nginx"));
    let dir = TempDir::with_prefix("postern-nginx-").expect("a directory");
    let prefix = format!("{}/", dir.path().display());
    through(
        "/usr/sbin/nginx",
        &["-p", &prefix, "-g", "daemon off;", "-c"],
        &config,
    )
    .await;
}
