//! Who has this port? The process that listens on it, as far as `/proc` tells: all of it to root, to
//! others only of their own processes.

use std::fs;
use std::path::Path;

/// `nginx (process 812)`, for whoever listens on the TCP port; `None` if nobody does or it cannot be
/// seen. Reads many small files: not for an async worker.
pub fn holder_of(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let has = holds(&entry.path(), &sockets);
        has.then(|| format!("{} (process {process})", name(&entry.path())))
    })
}

/// The inodes of sockets that listen on the port, from the kernel's table (proc(5), `/proc/net/tcp`).
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = fields.get(1)?.rsplit_once(':')?;
            let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local, 16) == Ok(port);
            listens.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        })
        .collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        fs::read_link(file.path()).is_ok_and(|target| {
            let target = target.to_string_lossy();
            sockets.iter().any(|socket| *socket == target)
        })
    })
}

fn name(process: &Path) -> String {
    let text = fs::read_to_string(process.join("comm")).unwrap_or_default();
    match text.trim() {
        "" => "a process".to_owned(),
        name => name.chars().filter(|c| !c.is_control()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_a_port_is_named() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = holder_of(port).unwrap();
        assert!(
            holder.ends_with(&format!("(process {})", std::process::id())),
            "{holder}"
        );
        drop(socket);
        assert_eq!(holder_of(port), None);
    }
}
