//! Views of the past that are kept for a while: whoever looks around in it comes again.
//!
//! They share what they have in common, with each other and with the present. What is
//! written meanwhile is copied for them, part by part; so they are few, and go soon.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::KeyPath;
use etcd_projections::{KeyTree, Position};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// How many are kept.
const MOST: usize = 8;

/// For how long nobody may ask for one.
const LIFE: Duration = Duration::from_secs(20);

/// The views that are kept. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct PastViews {
    kept: Arc<Mutex<Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    position: Position,
    /// Where it is right: at this key, and below it.
    key: KeyPath,
    tree: KeyTree,
    used: Instant,
}

impl PastViews {
    /// Returns the nearest view that is of a position or later, before another, and right
    /// at a key; and which position it is of.
    pub(super) fn find(
        &self,
        then: Position,
        now: Position,
        key: &KeyPath,
    ) -> Option<(Position, KeyTree)> {
        let mut kept = self.lock();
        let fits =
            |kept: &&mut Kept| then <= kept.position && kept.position < now && kept.key.covers(key);
        let nearest = kept.iter_mut().filter(fits).min_by_key(|kept| kept.position)?;
        nearest.used = Instant::now();
        Some((nearest.position, nearest.tree.clone()))
    }

    /// Keeps a view.
    pub(super) fn keep(&self, position: Position, key: &KeyPath, tree: &KeyTree) {
        let mut kept = self.lock();
        let is_first = kept.is_empty();
        kept.retain(|kept| !(kept.position == position && key.covers(&kept.key)));
        let covers = |kept: &Kept| kept.position == position && kept.key.covers(key);
        if kept.iter().any(covers) {
            return;
        }
        kept.sort_by_key(|kept| kept.used);
        if kept.len() == MOST {
            kept.remove(0);
        }
        if is_first && let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.clone().let_go_in_time());
        }
        let used = Instant::now();
        kept.push(Kept { position, key: key.clone(), tree: tree.clone(), used });
    }

    /// Lets go of each that nobody has asked for in a while, until none is left.
    async fn let_go_in_time(self) {
        loop {
            tokio::time::sleep(LIFE).await;
            self.let_go();
            if self.lock().is_empty() {
                return;
            }
        }
    }

    /// Lets go of those that nobody has asked for in a while.
    fn let_go(&self) {
        self.lock().retain(|kept| kept.used.elapsed() < LIFE);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::Index;

    use super::*;
    use crate::util::limit;

    fn at(index: u64) -> Position {
        Position { index: Index(index), ..Position::default() }
    }

    fn key(path: &str) -> KeyPath {
        KeyPath::clean(path).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn nearest_view_that_is_right_is_found() {
        limit::begin();
        let views = PastViews::default();
        for (index, path) in [(10, "/"), (20, "/a"), (30, "/b")] {
            views.keep(at(index), &key(path), &KeyTree::default());
        }
        let found = |then, now, path| views.find(at(then), at(now), &key(path)).map(|it| it.0);
        assert_eq!(found(5, 40, "/a/x"), Some(at(10)));
        assert_eq!(found(15, 40, "/a/x"), Some(at(20)));
        assert_eq!(found(20, 40, "/a"), Some(at(20)));
        assert_eq!(found(15, 40, "/c"), None, "none of them is right there");
        assert_eq!(found(25, 30, "/b"), None, "the present is nearer");
        assert_eq!(found(31, 40, "/b"), None, "it is of before");
    }

    #[tokio::test(start_paused = true)]
    async fn views_are_few_and_go_soon() {
        limit::begin();
        let views = PastViews::default();
        for index in 1..=2 * MOST as u64 {
            views.keep(at(index), &KeyPath::root(), &KeyTree::default());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(views.lock().len(), MOST);
        tokio::time::advance(LIFE / 2).await;
        assert!(views.find(at(16), at(99), &KeyPath::root()).is_some());
        tokio::time::advance(LIFE / 2).await;
        views.let_go();
        assert_eq!(views.lock().iter().map(|kept| kept.position).collect::<Vec<_>>(), [at(16)]);
        // A view of more takes the place of what it covers.
        views.keep(at(50), &key("/a"), &KeyTree::default());
        views.keep(at(50), &KeyPath::root(), &KeyTree::default());
        views.keep(at(50), &key("/b"), &KeyTree::default());
        assert_eq!(views.lock().len(), 2);
    }

    /// Whoever looks at one moment again and again makes no task each time.
    #[tokio::test]
    async fn one_task_lets_go_of_all() {
        limit::begin();
        let views = PastViews::default();
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for _ in 0..10 {
            views.keep(at(1), &KeyPath::root(), &KeyTree::default());
        }
        assert_eq!(tasks(), before + 1);
    }
}
