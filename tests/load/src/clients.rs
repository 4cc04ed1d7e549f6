//! How are many clients set up and watched? Opens connections a few at a time, and fails a run as soon as one of its
//! clients fails.

use crate::error::LoadError;
use crate::link::{Link, Target};
use crate::tls::Tls;
use crate::wire::Session;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Runs `open` for 0..`count`, at most `at_once` of them together; the results are in order.
///
/// # Errors
/// The first error of any of them; the others are dropped.
pub async fn open_all<T, F>(
    count: u32,
    at_once: u16,
    mut open: impl FnMut(u32) -> F,
) -> Result<Vec<T>, LoadError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LoadError>> + Send + 'static,
{
    let mut opened: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut under_way = JoinSet::new();
    let mut next = 0;
    while next < count || !under_way.is_empty() {
        while next < count && under_way.len() < usize::from(at_once) {
            let (index, opening) = (next, open(next));
            under_way.spawn(async move { opening.await.map(|client| (index, client)) });
            next += 1;
        }
        if let Some(done) = under_way.join_next().await {
            let (index, client) = done??;
            opened[index as usize] = Some(client);
        }
    }
    Ok(opened.into_iter().flatten().collect())
}

/// A connection whose TLS session is never resumed.
///
/// # Errors
/// See [`Link::open`].
pub async fn link(
    target: Arc<Target>,
    client: String,
    session: Session,
    index: u32,
    capacity: usize,
) -> Result<Link, LoadError> {
    let tls: Option<&Tls> = target.tls.as_ref();
    Link::open(&target, tls, client, session, index, capacity).await
}

/// The error of a client that ended before it was told to, if there is one.
///
/// # Errors
/// That error.
pub fn check<T: 'static>(clients: &mut JoinSet<Result<T, LoadError>>) -> Result<(), LoadError> {
    while let Some(ended) = clients.try_join_next() {
        ended??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn clients_are_opened_a_few_at_a_time_and_returned_in_order() {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let opened = open_all(50, 7, |n| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                (0..n % 5).for_each(|_| std::hint::spin_loop());
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(n)
            }
        })
        .await
        .unwrap();
        assert_eq!(opened, (0..50).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 7);
    }

    #[tokio::test]
    async fn the_first_failure_ends_the_set_up() {
        let refused = |n| LoadError::Refused {
            client: format!("c{n}"),
            code: 5,
        };
        let result = open_all(9, 2, |n| async move {
            if n == 3 { Err(refused(n)) } else { Ok(()) }
        })
        .await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .starts_with("c3: the server refused CONNECT with code 0x05")
        );
    }
}
